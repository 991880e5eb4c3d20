"""The workspace: settings, folders under DVC, recipes, orders and reports of stages."""
