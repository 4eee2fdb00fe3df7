"""A library with the bad habit of starting a thread when it is imported."""

import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
