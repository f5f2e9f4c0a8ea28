"""What stands in a Parquet file, byte for byte: Thrift structs, their field ids, encrypted modules and their AADs."""
