"""What tests of several parts share: real engines, waiting, peers."""
