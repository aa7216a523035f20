"""Answers what is no reply."""

if __name__ == "__main__":
    print("hello")
