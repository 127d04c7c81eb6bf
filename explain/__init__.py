"""What does it look at?"""
