"""Modelferry as an MCP server: tools, resources and prompts for agents."""
