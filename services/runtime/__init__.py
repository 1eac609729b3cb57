"""The only code that services share: settings, the server around a servicer, errors on the wire."""
