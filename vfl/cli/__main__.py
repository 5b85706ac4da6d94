"""python -m vfl.cli"""

from vfl.cli import main

main()
