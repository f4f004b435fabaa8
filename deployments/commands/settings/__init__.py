"""What is saved under a name: credentials, configurations, prompt sets."""
