"""Documents whose text is known, and how near an extracted text comes to it."""
