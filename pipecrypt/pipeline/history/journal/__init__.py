"""What runs note about themselves below `_pipecrypt/runs/` in the sink, so that later ones know what was done."""
