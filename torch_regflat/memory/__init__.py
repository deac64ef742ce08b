"""Where a kernel's bytes come from: one file a memory system, each a function from mappings to traffic and times."""
