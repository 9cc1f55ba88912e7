function main(amount) {
  return amount * 1.2;
}
