"""How good is the instrument? Its bars, measured through the public `loadlib run` against a server
whose truth is known, beside a C client that does the least possible. See docs/measurement.md."""
