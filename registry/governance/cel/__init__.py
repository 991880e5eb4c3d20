"""Policy expressions: Google's CEL, its syntax trees, and the shapes of what they read."""
