"""What is told about a run: events, records, reports and logs; and how a run is interrupted."""
