"""Several machines of one site: who they are, which one holds a lease, what they tell each other."""
