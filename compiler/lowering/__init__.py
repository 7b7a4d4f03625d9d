"""From core ops to kernel calls on strided views."""
