"""`python -m tests.acceptance.load`: every node gets the images that the proofs run there, and no others."""

from tests.acceptance.world import PLACED, give_images


def main() -> None:
    """The command."""
    for node, which in PLACED.items():
        give_images(node, *which)
        print(f"{node} has {', '.join(which)}", flush=True)


if __name__ == "__main__":
    main()
