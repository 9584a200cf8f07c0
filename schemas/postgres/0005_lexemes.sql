-- Lexemes are made by the services now, for texts and queries alike (docs/adr/0010). PostgreSQL keeps
-- and finds them; its own parser, stemmers and dictionaries have nothing to do any more. The extension
-- unaccent stays: it may serve others in this database.
DROP FUNCTION searchable(regconfig, text);
DROP FUNCTION folded(regconfig, text);
DROP TABLE folded_stop_words;
