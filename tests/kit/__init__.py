"""What tests share: sources, bodies, agents, scripted models, a local provider. Proves nothing itself."""
