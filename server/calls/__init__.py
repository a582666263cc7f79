"""How calls are answered: the layers around every method, admission, deadlines, and the calls beside ``Search``."""
