# Runs everything that must pass before a commit lands; CI runs the same.
check:
    scripts/test

# The same, without the dependency and spelling checks where their tools are missing.
test:
    scripts/test --fast

# Rewrites the golden files. Read the difference before you commit it.
bless:
    INSTA_UPDATE=always cargo nextest run --no-fail-fast
    git diff --stat
