"""Where does it err, and why?"""
