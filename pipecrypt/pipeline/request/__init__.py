"""What a caller asks for, checked. Carrying it out is left to the rooms above."""
