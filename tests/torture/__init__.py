"""Breaking things on purpose, to see that no passage is lost: `make torture`.

kills.py      an ingest into an embedded collection, killed again and again
disks.py      full and read-only disks, damaged files, two processes on one directory
servers.py    a server killed and started again under ingest and search
clusters.py   three nodes, each killed, paused and cut off in turn
sharing.py    threads and tasks that search while others write; two writers; a soak
fuzz.py       readers, filters and ingests that get what nobody would write

The suite runs each in a short form (`test_torture.py`, `test_fuzz.py`).
"""
