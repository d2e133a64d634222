"""SQLAlchemy's async engine, on asyncpg and on psycopg.

Greenlets that switch in and out of the loop: sessions, transactions, streams of rows, cancellation.
"""

import asyncio
import os

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ecosystem import kit

PACKAGES = ["SQLAlchemy[asyncio]>=2", "asyncpg>=0.29", "psycopg[binary]>=3.1"]
SERVERS = ["postgresql"]

URL = os.environ["ECOSYSTEM_POSTGRESQL"]


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "accounts"
    number: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]
    data: Mapped[bytes]


async def use(engine):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
    async with sessions.begin() as session:
        session.add_all(Account(number=number, balance=100, data=kit.payload(2000, number)) for number in range(500))

    async def transfer(number):
        """Two accounts, always in the same order; every tenth changes its mind."""
        async with sessions() as session:
            one, other = (await session.scalars(sa.select(Account).where(Account.number.in_([number % 50, number % 50 + 50]))
                                                .order_by(Account.number).with_for_update())).all()
            one.balance -= 1
            other.balance += 1
            await session.flush()
            if number % 10 == 0:
                await session.rollback()
            else:
                await session.commit()

    await kit.in_waves(300, 50, transfer)
    async with sessions() as session:
        assert await session.scalar(sa.select(sa.func.sum(Account.balance))) == 50_000
        moved = await session.scalar(sa.select(sa.func.sum(Account.balance)).where(Account.number < 50))
        assert moved == 5000 - 270
        seen = 0
        async for account in await session.stream_scalars(sa.select(Account).order_by(Account.number)):
            assert account.data == kit.payload(2000, account.number)
            seen += 1
        assert seen == 500

    async def given_up(number):
        try:
            async with asyncio.timeout(0.1), engine.connect() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(100)"))
        except TimeoutError:
            return
        raise AssertionError

    await kit.in_waves(10, 5, given_up)
    await kit.in_waves(50, 20, transfer)


async def main():
    for driver in ("asyncpg", "psycopg"):
        engine = create_async_engine(URL.replace("postgresql", f"postgresql+{driver}", 1), pool_size=10, max_overflow=10)
        await use(engine)
        await engine.dispose()
