"""What comes in: documents and chats, parsed into sections and passages."""
