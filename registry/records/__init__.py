"""Types: facts, evidence, events, results and answers, pure and without input or output."""
