"""Who may call, how often, and over which wire: TLS, API keys, rate limits."""
