"""A collection served to others: to language models over MCP, and to people as a page to try it.

    finder      `Finder`: searches and explains within what the server's owner fixed
    answers     what the MCP tools return: typed values, and the same as text to read
    tools       `mcp_server`: the tools search, explain and ingest
    page        `page_app`: the page and its JSON API
    hosts       who may ask: loopback, names against DNS rebinding; and the loop that serves

    mcp_server ─┐
                ├─► Finder ─► Index
    page_app  ──┘

Nothing is imported here, so that the commands' --help is quick.
"""
