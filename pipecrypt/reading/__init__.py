"""Read encrypted files back, through pyarrow. What is shown was checked before."""
