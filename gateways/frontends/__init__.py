"""What each web server sends and needs: configuration, and private servers for demonstrations."""
