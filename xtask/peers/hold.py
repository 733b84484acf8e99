"""hold.py FILE PROMPT: reads the file as an engine would, keeps both in memory and ends with SIGABRT."""
import os
import sys

weights = open(sys.argv[1], "rb").read()
prompt = sys.argv[2] * 1
assert weights and prompt
os.abort()
