"""`python -m testbed` is `testbed`."""

import signal

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # so that a Ctrl-C during the imports ends them without a word
    from testbed.cli import main

    main()
