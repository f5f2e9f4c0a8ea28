"""Write a statement: what the next version says, who signs it, and what may not be written without one."""
