"""`python -m occloom` is `occloom`."""

from occloom.cli.main import main

if __name__ == "__main__":
    main()
