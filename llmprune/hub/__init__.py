"""The Hub's client: files of data sets, the right to send, and what its errors mean."""
