# Nothing of it is public: a base of the loop, with the methods of asyncio.SelectorEventLoop.
