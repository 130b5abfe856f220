"""Who may do what: keys and how they are presented, permissions, rates."""
