"""Generated from protos/metarec/v1 by `make protos`; never edited."""
