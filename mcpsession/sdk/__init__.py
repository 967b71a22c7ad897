"""The MCP SDK's side: how a request travels. The only folder that imports the SDK."""
