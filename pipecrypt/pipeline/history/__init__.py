"""What runs leave in a sink: journal, lock, records; read, continued and cleaned. What is left to do: planning/."""
