"""The pager: a helper process that fills pages when they are touched.

A thread that touches an absent page may hold the GIL, so that no Python of its own process can bring the bytes: another
process must. docs/pager.md tells the facts, the protocol and what happens when something dies.

    wire.py          messages: JSON and descriptors over a Unix socket
    link.py          in the user's process, one file: what its planner asks of the pager
    helpers.py       in the user's process: starting the helpers, and their end
    conversation.py  there too: what is said and heard, and who takes the place of helpers that die
    client.py        there too: the thread whose conversation that is, its start and end, and forks
    supervisor.py    the first helper: one thread, holds every descriptor, forks the worker anew when it dies
    state.py         what both keep: descriptors, and who holds which pages
    worker.py        the second helper: the loop that reads faults and messages
    resolver.py      in the worker, one file: from a fault to its bytes, with the planner and the driver of hctef
    filling.py       in the worker, one file: the arena that is filled in other processes' memory, and the page table
"""
