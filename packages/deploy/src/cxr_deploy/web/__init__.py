"""A page that classifies in the browser: static files, the model among them; nothing leaves the computer."""
