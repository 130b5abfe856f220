"""HTTP as the caller sees it: route table, authentication, the answer, observation, admin pages."""
