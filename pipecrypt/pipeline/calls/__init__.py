"""The calls of scripts: encrypt, decrypt, verify, grant, rotate, and writers that are fed. Runs are left to run/."""
