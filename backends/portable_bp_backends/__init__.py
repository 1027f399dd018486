"""Adapters: one array library a file. They decide where and how fast, never what is computed."""
