"""What goes over the wire:

JSON shapes, how they are read strictly, and how the domain's values are written.
"""
