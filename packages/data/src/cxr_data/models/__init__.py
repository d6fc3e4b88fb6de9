"""Model files read without torch: their header, licences and decisions, on disk and on the Hub."""
