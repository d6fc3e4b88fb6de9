"""A page that classifies in the browser: static files with the model among them; images stay on the computer."""
