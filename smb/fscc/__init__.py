"""Information structures of [MS-FSCC] and the identifiers and descriptors of [MS-DTYP] inside them."""
