"""User annotations: JSON files as Flickr's API gave them, and the table that they become."""
